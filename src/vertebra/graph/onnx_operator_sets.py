"""ONNX operators of one kind, whose shapes (`onnx_shapes`) and cost (`onnx_cost`) follow the same rule."""

# Elementwise; the result has the shape of the first input.
_UNARY = """
Abs Acos Asin Atan BatchNormalization BiasGelu Binarizer Cast CastLike Ceil Celu Clip Cos Cosh CumSum
DequantizeLinear Dropout DynamicQuantizeLinear Elu Erf Exp FastGelu Floor Gelu GroupNormalization HardSigmoid
HardSwish Hardmax Identity InstanceNormalization IsInf IsNaN LRN LeakyRelu Log LogSoftmax LpNormalization
MeanVarianceNormalization Mish Neg Not PRelu QLinearLeakyRelu QLinearSigmoid QLinearSoftmax QuantizeLinear
QuickGelu Reciprocal Relu ReverseSequence Round Scatter ScatterElements ScatterND Selu Shrink Sigmoid Sign Sin
Sinh Softmax Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu Trilu
"""
# Elementwise; inputs are broadcast.
_BINARY = """
Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min
Mod Mul Or Pow Sub Sum Where Xor
"""
# Axes are removed or become 1.
_REDUCTIONS = """
ArgMax ArgMin ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
ReduceSumSquare
"""
UNARY, BINARY, REDUCTIONS = (frozenset(names.split()) for names in (_UNARY, _BINARY, _REDUCTIONS))
