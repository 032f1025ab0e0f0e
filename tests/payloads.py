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
    "\x1b]52;c;ZXZpbA==\x07\x1b]8;;http://evil.example\x1b\\x\x1b]8;;\x1b\\ \x9b2J \x90q \u2066abc",
    "[red]loud[/red] [/] [link=http://evil.example]x[/link] :skull: {0} {{ 7*7 }} %s",
    "</title></svg><svg onload=alert(1)><a xlink:href='javascript:alert(1)'>x</a><!-- ]]> --&gt;",
    "</script><script>window.pwned=1</script>'\";alert(1)//\u2028\u2029",
    "%0a%0d\n# heading\n> quote\n- [ ] item\n<!-- --> &lt;b&gt; [^1]: http://evil.example",
)
STEERING = "\x1b\x07\x08\x9b\x90\x9d\u202e\u2066\ud800"
"""Characters of which no terminal may get one."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")
