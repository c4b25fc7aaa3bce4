"""Records of runs: what lies on disk, and mlflow as its index.

    mlflow       mlflow as an index of the run records: Tracker, rebuild, where stores are
    mlflow_tags  a run record in mlflow's words, and back
    records      runs as a table, their damaged files, and what they answered on the same samples
    store        `RunRecord` and `Store`: the runs folder, and its only reader
    tracking     records go to a tracking store beside a sweep, and runs of a store are read

Nothing here runs a variant or knows what a strategy is.
"""
