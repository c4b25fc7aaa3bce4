"""Records of runs: what lies on disk, and mlflow as its index.

    answers      what runs answered on the same samples
    damage       which files of a run are damaged
    mlflow       mlflow as an index of the run records: Tracker, rebuild, where stores are
    mlflow_tags  a run record in mlflow's words, and back
    records      records read back as a table, and their filters
    store        `RunRecord` and `Store`: the runs folder
    tracking     records go to a tracking store beside a sweep, and runs of a store are read

Nothing here runs a variant or knows what a strategy is.
"""
