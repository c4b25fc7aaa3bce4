"""What a person touches in a notebook: tables and pictures with controls, thin over the packages below.

    compare         `vq.compare`
    elements        parts with a script of their own: ordered messages, buttons, long actions, pickers
    explorer        `vq.explore`
    explorer_state  the state of the explorer, without widgets
    explorer_view   the explorer's plan rows, pictures and controls
    part_picker     `vq.pick_part`: the part of a model that is quantized, chosen by clicking
    sensitivity     `vq.sensitivity`
    watch           `vq.watch`: a sweep while it runs; and the dashboard

What a comparison shows is made in `comparison.report`, the look of all pages in `comparison.page`.
A widget holds no rule about quantization: its state is a `Strategy`, and each change makes a new one.
Everything live has a static twin: the same HTML is what an executed or exported notebook shows.
"""
