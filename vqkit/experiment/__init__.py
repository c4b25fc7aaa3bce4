"""Runs: a sweep file becomes variants, a variant an executed notebook and a record, records a table."""
