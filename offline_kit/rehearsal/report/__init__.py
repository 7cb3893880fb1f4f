"""The page that shows a rehearsal to a person: `report.html`, one file that requests nothing.

`run_facts` collects what a run leaves behind as JSON beside the evidence; `page` draws the page from it, again after a
push or a submission. All that it shows (names, cells, tables) is untrusted and escaped. It needs a finished run.
"""
