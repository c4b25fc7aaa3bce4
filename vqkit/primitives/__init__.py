"""Arrays in, arrays out: how one tensor is put on an integer grid. Knows no model and no JSON file.

    spec         what a strategy asks for: bits, method, rounding, granularity
    grid         that grid's numbers in float32
    affine       rounding and both kernels written out in numpy
    reference    range, position, codes in numpy: the oracle
    kernels      the same arithmetic in TensorFlow, faster where exact, with gradients
    ops          the TensorFlow front: value_range, position, fake_quantize, choose
    native       vqkit's own operations, compiled on the machine where that is possible
    sums, least  the least error among candidate positions, in numpy and in TensorFlow
    counting     how many values lie in each of many equal bins
    binning      histograms of |x| that grow batch by batch
    widths       positions for many bit widths from one count
    divergence   the KL search for a clipping threshold
    search       the MSE search for a clipping threshold
    histogram    from a histogram to range and position
    choose       from a tensor to range and position, in numpy
    qparams      the decided numbers of one tensor
    dpu          average pooling and sigmoid as the DPU computes them

Only `kernels`, `least`, `native` and `ops` import TensorFlow.
"""
