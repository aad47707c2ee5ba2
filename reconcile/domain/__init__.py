"""What every room speaks about: windows, events, money, the result document. Pure."""
