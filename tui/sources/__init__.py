"""Where rows come from, and the form in which the panes draw them."""
