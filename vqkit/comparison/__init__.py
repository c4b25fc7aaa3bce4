"""Runs side by side: leaderboard, difference, report, reproduction.

    calibration_study  how many calibration images
    difference         two runs: strategy, plan, outcome
    leaderboard        the leaderboard: ranks, ties, recommendation
    page               pages and their parts as HTML: the look that files and widgets share
    report             what a comparison shows, as HTML, and the file with it
    reproduce          run again, compare to the bit
    runset             chosen runs with their files and samples

Nothing is measured here, `reproduce` and `calibration_study` apart, which run variants again.
"""
