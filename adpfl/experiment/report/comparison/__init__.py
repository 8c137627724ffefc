"""The comparison report: many runs in, one folder's page, tables and record out.

`settings` groups runs that differ by their seed alone, `metrics` and `reduction` take their scores to
figures, `statistics` compares them, `summary` puts them into rows, `targets` holds them against what was
aimed at, `charts` draws them, `page` sets the page. Nothing here trains or starts a process.
"""
