"""A Keras model in, a Keras model out, same function; knows no strategy.

    copies        copies of a user's layers
    execute       partitioned execution of a graph: compiled from cut to cut, with callbacks between
    ir            Graph, Node, Layer, Value
    keras_io      Keras model to Graph and back; the only user of Keras privates
    keras_layers  live Keras layers: their variables, custom code, functions, inputs
    state         what a layer holds beyond its config and its weights
    passes        rewriting passes, in order

Graphs are values: a pass makes a new one, and the user's model is never changed.
"""
