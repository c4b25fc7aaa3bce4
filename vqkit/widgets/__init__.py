"""What a person touches in a notebook: tables and pictures with controls, thin over the floors below.

    picker   HTML or SVG whose marked parts can be chosen with mouse and keyboard (the one front-end script)
    table    rows to a sortable HTML table, live and static alike
    style    colours of the page, figures as images, controls with labels

A widget holds no rule about quantization: its state is a `Strategy`, and each change makes a new one.
Everything live has a static twin: the same HTML is what an executed or exported notebook shows.
"""
