"""Warm kernels: TensorFlow, model and data stay loaded between variants, and nothing else does.

    kernel.py    the worker's side: start, lend to one notebook after another, end when in doubt
    session.py   the kernel's side: before each variant a clean slate, after it a look for traces
    guard.py     what nobody may have replaced: functions, methods and classes of every loaded module
    switches.py  what can be put back: environment, folder, random numbers, settings of libraries
    kept.py      what is meant to stay: the model, the data, and what was computed from them

A kernel is ended, and the next variant gets a fresh one, after a failure, after a number of variants, when
its memory grows, and whenever a variant left something behind that cannot be put back.
"""
