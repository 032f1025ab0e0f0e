"""Texts that would do something, were they not shown as they are: markup, formulas, links, control characters."""

PAYLOADS = (
    "<script>alert(1)</script>",
    '=HYPERLINK("http://evil.example","x")',
    "+1+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(1)",
    "\t=1",
    "\r=1",
    "a | b\n| c | d |",
    "`code` **bold** [x](javascript:alert(1)) ![i](http://evil.example/p.png)",
    "$\\frac{1}{0}$ <img src=x onerror=alert(1)>",
    "http://evil.example and www.evil.example",
    "\x1b[31mred\x07 \u202eabc \ud800",
)
FORMULA = ("=", "+", "-", "@", "\t", "\r")
