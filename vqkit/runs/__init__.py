"""Records of runs: what lies on disk, and mlflow as its index.

    mlflow       mlflow as an index of the run records: Tracker, where stores are
    mlflow_tags  a run record in mlflow's words, and back
    pyfunc       what loads a registered model, where there is no vqkit
    records      runs as a table, their damaged files, and what they answered on the same samples
    registry     models of runs in mlflow's model registry
    store        `RunRecord` and `Store`: the runs folder, and its only reader
    tracking     records go to a tracking store beside a sweep or all at once, and runs of a store are read

Nothing here runs a variant or knows what a strategy is.
"""
