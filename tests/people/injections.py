"""Two hundred strings that would run, fetch or break something on a page that believed them."""

HOSTS = ("http://evil.example/x", "//evil.example/x", "javascript:alert(1)", "data:text/html,<script>alert(1)</script>")
TAGS = (
    "<script>alert(1)</script>",
    "<SCRIPT SRC={u}></SCRIPT>",
    "<img src=x onerror=alert(1)>",
    "<img src={u}>",
    "<svg onload=alert(1)>",
    "<svg><script>alert(1)</script></svg>",
    "<iframe src={u}></iframe>",
    "<object data={u}>",
    "<embed src={u}>",
    "<link rel=stylesheet href={u}>",
    "<style>@import '{u}';</style>",
    "<base href={u}>",
    "<meta http-equiv=refresh content='0;url={u}'>",
    "<form action={u}><input type=submit autofocus>",
    "<video src={u}>",
    "<body onload=alert(1)>",
    "<details open ontoggle=alert(1)>",
    "<a href={u} autofocus onfocus=alert(1)>a</a>",
    "<div style='background:url({u})'>",
    "<input onfocus=alert(1) autofocus>",
    "<math><mi xlink:href={u}>",
    "<audio src={u}>",
)
BREAKS = ("", '">', "'>", "</div>", "</textarea>", "--></title>", "]]>", "`}}{{")
MARKDOWN = (
    "[a]({u})",
    "![a]({u})",
    "<{u}>",
    "[a]: {u}\n\n[a]",
    "[a](<{u}>)",
    "![a][b]\n\n[b]: {u}",
    "**[a]({u} 'b')**",
    "|a|\n|:-:|\n|<img src={u}>|",
    "```<img src={u}>\n<script>alert(1)</script>\n```",
    "    <script>alert(1)</script>",
    "&#60;script&#62;alert(1)&#60;/script&#62;",
    "&lt;img src={u}&gt;",
    "<!-- {u} -->",
    "<?php echo 1 ?>",
)
OTHERS = (
    "{{ 7 * 7 }}",
    "{% for x in y %}",
    "{{ config }}",
    "${7*7}",
    "#{7*7}",
    "<%= 7 * 7 %>",
    "\u202eevil\u202c",
    "a\u2028b",
    "\ufeffa",
    "'; DROP TABLE work; --",
    '" OR ""="',
    "../../../etc/passwd",
    "\r\nSet-Cookie: a=b",
    "%3Cscript%3E",
    "\\u003cscript\\u003e",
    "<\u0131mg src=x>",
    "\uff1cscript\uff1e",
    "a",
    "\U0001f600",
    "<scr<script>ipt>alert(1)</script>",
    "&&amp;&#38;",
)


def injections() -> list[str]:
    """All of them; each alone, with every address, and behind what may end an attribute or an element."""
    found = [
        tag.replace("{u}", host) for tag in (*TAGS, *MARKDOWN) for host in HOSTS if "{u}" in tag or host == HOSTS[0]
    ]
    found += [end + TAGS[number % len(TAGS)].replace("{u}", HOSTS[0]) for number, end in enumerate(BREAKS * 12)]
    return list(dict.fromkeys([*OTHERS, *found]))
