"""Pages that a browser shows by itself: Python packs events and geometry, the files beside it draw them.

`event_page.html` is the page, `event_page.css` its look, and each `.js` file one part of it, named for what it does.
They are put into one file as they stand; there is nothing to build.
"""
