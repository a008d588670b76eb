"""Laws that predict large runs from small ones: sizes and tokens, benchmarks, mixes of data. Arrays in, arrays out."""
