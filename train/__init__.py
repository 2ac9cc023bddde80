"""Everything that makes TADiSR's weights or judges them."""
