"""Arrays in, arrays out: how one tensor is put on an integer grid. Knows no model and no JSON file.

    affine     numpy: rounding and both kernels, as formulas
    choose     numpy: spec + tensor -> QParams
    counting   bin counts in one pass, and positions for many bit widths from one count
    histogram  histograms of |x| over batches, and thresholds, ranges and positions read from them
    kernels    TensorFlow: fake-quantization with gradients, and arithmetic of the DPU
    kl         KL search for a clipping threshold, and which thresholds it may choose
    mse        numpy: the least squared error over candidate positions or ranges
    native     own C++ ops: build, load, use (native.cc beside it)
    ops        TensorFlow: ranges, positions, errors of candidates, fake-quantization of tensors
    qparams    QParams: spec + range + position; the only JSON form of a quantizer
    reference  numpy: ranges, positions, fake-quantize; the oracle
    spec       what a strategy asks for one tensor, and its integer grid; no arrays, no TensorFlow

Only `kernels`, `ops` and `native` import TensorFlow; the numpy modules are the oracle.
"""
