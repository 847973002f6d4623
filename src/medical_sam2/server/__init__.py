"""A local server with a page: click, see the outline, correct it, take it away; and the protocols of other viewers."""
