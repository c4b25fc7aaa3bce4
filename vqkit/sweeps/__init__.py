"""A sweep file becomes variants, each planned before the first one runs.

    notebook    the run notebook: find, digest, declared parameters
    qat         the qat section
    quickstart  the embedded example
    resolve     every variant planned before the first runs
    screen      successive screening
    source      models and data named by text
    spec        a sweep file: its form, checked, and the points that it spans
    variant     Variant, Source, key

Nothing here runs a variant.
"""
