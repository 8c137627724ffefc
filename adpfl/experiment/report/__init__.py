"""The run report: records in, one self-contained HTML page out.

`record` reads and joins the daemons' records, `results` derives the figures, `words` says them, `figures`
draws them, `page` sets the page. Nothing here talks to a network or starts a process.
"""
