"""Variants run: as notebooks, in workers, on Dask, in the background.

    attempt       one variant: RUNNING -> outcome
    background    a sweep in a process of its own, and where it stands
    dask          the same on Dask
    in_memory     one variant beside the user, kept as a run
    papermill     executes a notebook; the only importer of papermill
    registration  a run's model becomes a version in mlflow's model registry
    requantize    the quantized model behind a name: a recorded run made again, or a model file quantized now
    run_api       what the run notebook calls
    runner        `run_sweep`, `run_single`, `run_tracked`: every variant to a worker, records to mlflow
    warm          a kernel kept between runs of the shipped notebook
    workers       the worker pool: processes that execute notebooks one after another

`python -m vqkit.execution.workers` is a process that others start.
"""
