"""TalkLip's layer tables for faces of 128 and 256 px: the published ones (96 px), continued in their own form.

A face of 128 px goes through the same rows; its features end at 4x4 instead of 3x3. One of 256 px has a row more at its
ends, in which the channels of the published first rows come one size later.
"""

from torch import nn

from models.layers import ConvLeaky, ConvNorm, Row, UpNorm

# fmt: off
ENCODER_128 = (  # in: (6, 128, 128)
    #             out  k  s  p  res  size
    Row(ConvNorm,  16, 7, 1, 3,   0,  128),
    Row(ConvNorm,  32, 3, 2, 1,   2,   64),
    Row(ConvNorm,  64, 3, 2, 1,   3,   32),
    Row(ConvNorm, 128, 3, 2, 1,   2,   16),
    Row(ConvNorm, 256, 3, 2, 1,   2,    8),
    Row(ConvNorm, 512, 3, 2, 1,   1,    4),
    Row(ConvNorm, 512, 4, 1, 0,   0,    1),
    Row(ConvNorm, 512, 1, 1, 0,   0,    1),
)
DECODER_128 = (
    #             out  k  s  p  res  size
    Row(ConvNorm, 512, 1, 1, 0,   0,    1),
    Row(UpNorm,   512, 4, 1, 0,   1,    4),
    Row(UpNorm,   512, 3, 2, 1,   2,    8),
    Row(UpNorm,   384, 3, 2, 1,   2,   16),
    Row(UpNorm,   256, 3, 2, 1,   2,   32),
    Row(UpNorm,   128, 3, 2, 1,   2,   64),
    Row(UpNorm,    64, 3, 2, 1,   2,  128),
)
TO_RGB_128 = (
    Row(ConvNorm,  32, 3, 1, 1,   0,  128),
    Row(nn.Conv2d,  3, 1, 1, 0,   0,  128),
)
DISCRIMINATOR_128 = (  # in: (3, 64, 128), the lower half of a face
    #              out  k       s  p  res       size
    Row(ConvLeaky,  32, 7,      1, 3,   0, (64, 128)),
    Row(ConvLeaky,  64, 5, (1, 2), 2,   0,        64),
    Row(ConvLeaky,  64, 5,      1, 2,   0,        64),
    Row(ConvLeaky, 128, 5,      2, 2,   0,        32),
    Row(ConvLeaky, 128, 5,      1, 2,   0,        32),
    Row(ConvLeaky, 256, 5,      2, 2,   0,        16),
    Row(ConvLeaky, 256, 5,      1, 2,   0,        16),
    Row(ConvLeaky, 512, 3,      2, 1,   0,         8),
    Row(ConvLeaky, 512, 3,      1, 1,   0,         8),
    Row(ConvLeaky, 512, 3,      2, 1,   0,         4),
    Row(ConvLeaky, 512, 3,      1, 1,   0,         4),
    Row(ConvLeaky, 512, 4,      1, 0,   0,         1),
    Row(ConvLeaky, 512, 1,      1, 0,   0,         1),
    Row(nn.Conv2d,   1, 1,      1, 0,   0,         1),
)

ENCODER_256 = (  # in: (6, 256, 256)
    #             out  k  s  p  res  size
    Row(ConvNorm,  16, 7, 1, 3,   0,  256),
    Row(ConvNorm,  32, 3, 2, 1,   1,  128),
    Row(ConvNorm,  64, 3, 2, 1,   2,   64),
    Row(ConvNorm, 128, 3, 2, 1,   3,   32),
    Row(ConvNorm, 256, 3, 2, 1,   2,   16),
    Row(ConvNorm, 512, 3, 2, 1,   2,    8),
    Row(ConvNorm, 512, 3, 2, 1,   1,    4),
    Row(ConvNorm, 512, 4, 1, 0,   0,    1),
    Row(ConvNorm, 512, 1, 1, 0,   0,    1),
)
DECODER_256 = (
    #             out  k  s  p  res  size
    Row(ConvNorm, 512, 1, 1, 0,   0,    1),
    Row(UpNorm,   512, 4, 1, 0,   1,    4),
    Row(UpNorm,   512, 3, 2, 1,   2,    8),
    Row(UpNorm,   384, 3, 2, 1,   2,   16),
    Row(UpNorm,   256, 3, 2, 1,   2,   32),
    Row(UpNorm,   128, 3, 2, 1,   2,   64),
    Row(UpNorm,    64, 3, 2, 1,   2,  128),
    Row(UpNorm,    32, 3, 2, 1,   1,  256),
)
TO_RGB_256 = (
    Row(ConvNorm,  16, 3, 1, 1,   0,  256),
    Row(nn.Conv2d,  3, 1, 1, 0,   0,  256),
)
DISCRIMINATOR_256 = (  # in: (3, 128, 256), the lower half of a face
    #              out  k       s  p  res        size
    Row(ConvLeaky,  32, 7,      1, 3,   0, (128, 256)),
    Row(ConvLeaky,  64, 5, (1, 2), 2,   0,        128),
    Row(ConvLeaky,  64, 5,      2, 2,   0,         64),
    Row(ConvLeaky,  64, 5,      1, 2,   0,         64),
    Row(ConvLeaky, 128, 5,      2, 2,   0,         32),
    Row(ConvLeaky, 128, 5,      1, 2,   0,         32),
    Row(ConvLeaky, 256, 5,      2, 2,   0,         16),
    Row(ConvLeaky, 256, 5,      1, 2,   0,         16),
    Row(ConvLeaky, 512, 3,      2, 1,   0,          8),
    Row(ConvLeaky, 512, 3,      1, 1,   0,          8),
    Row(ConvLeaky, 512, 3,      2, 1,   0,          4),
    Row(ConvLeaky, 512, 3,      1, 1,   0,          4),
    Row(ConvLeaky, 512, 4,      1, 0,   0,          1),
    Row(ConvLeaky, 512, 1,      1, 0,   0,          1),
    Row(nn.Conv2d,   1, 1,      1, 0,   0,          1),
)
# fmt: on
