"""What a person touches in a notebook: tables and pictures with controls, thin over the floors below.

    front     widgets with a script of their own, and the queue in which all that a person does is acted on
    turns     one thing at a time, whichever thread of the kernel is told
    picker    HTML or SVG whose marked parts can be chosen with mouse and keyboard
    actions   a row of buttons
    table     rows to a sortable HTML table, live and static alike
    style     colours of the page, figures as images, messages

A widget holds no rule about quantization: its state is a `Strategy`, and each change makes a new one.
Everything live has a static twin: the same HTML is what an executed or exported notebook shows.
"""
