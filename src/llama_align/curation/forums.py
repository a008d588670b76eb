"""Posts of a forum, found by the marks of the software that wrote the page. Knows lxml trees; nothing of extraction.

An extractor built for articles takes the longest post for the page, or the list of threads beside it.
"""

import json

from lxml import etree, html
from lxml.html import HtmlElement

# XenForo first. What the classes and ids of a page have that may have such posts, and a post
POSTS = (
    ("bbWrapper", "article[contains(concat(' ', @class, ' '), ' message-body ')]//div[contains(@class, 'bbWrapper')]"),
    ("post_message_", "div[starts-with(@id, 'post_message_')]"),  # vBulletin
    ("postbody", "div[contains(concat(' ', @class, ' '), ' postbody ')]"
                 "//div[contains(concat(' ', @class, ' '), ' content ')]"),  # phpBB
    ("post_body", "div[contains(concat(' ', @class, ' '), ' post_body ')]"),  # MyBB
    ("inner", "div[@class='post']/div[@class='inner']"),  # SMF
    ("ips", "div[@data-role='commentContent']"),  # Invision
    ("crawler-post", "div[contains(concat(' ', @class, ' '), ' crawler-post ')]"
                     "//div[@itemprop='text' or @class='post']"),  # Discourse as crawlers see it
    ("post", "div[@class='post' and @itemprop='text']"),
    ("post", "div[@component='post/content']"),  # NodeBB
    ("Post-body", "div[contains(concat(' ', @class, ' '), ' Post-body ')]"),  # Flarum
    ("js-post-body", "div[contains(@class, 'js-post-body')] | .//span[contains(@class, 'comment-copy')]"),
    ("usertext-body", "div[contains(concat(' ', @class, ' '), ' usertext-body ')]"),  # Reddit
)  # fmt: skip
LEAST_POSTS = 2


def posts_of(tree: HtmlElement, names: str) -> HtmlElement | None:
    """A page of nothing but the posts, in order, under the thread's title; None where the page is no known forum.

    names: classes and ids of the page.
    """
    posts = _preloaded(tree) if "data-preloaded" in names else []
    if not posts:
        for mark, path in POSTS:
            found = tree.xpath(f".//{path}") if mark in names else ()
            posts = [post for post in found if post.text_content().strip()]
            if len(posts) >= LEAST_POSTS:
                break
        else:
            return None
    page = html.document_fromstring("<html><body><article></article></body></html>")
    article = page.find(".//article")
    heading = next(iter(tree.xpath("//h1[normalize-space()]")), None)
    if heading is not None:
        etree.SubElement(article, "h1").text = " ".join(heading.text_content().split())
    for post in posts:
        post.tail = None
        post.tag = "div"
        for name in list(post.attrib):
            del post.attrib[name]
        article.append(post)
    return page


def _preloaded(tree: HtmlElement) -> list[HtmlElement]:
    """Posts that Discourse sends as JSON, for a browser to draw."""
    holder = tree.find(".//*[@data-preloaded]")
    if holder is None:
        return []
    try:
        topics = [json.loads(v) for k, v in json.loads(holder.get("data-preloaded")).items() if k.startswith("topic_")]
        cooked = [post["cooked"] for topic in topics for post in topic["post_stream"]["posts"] if "cooked" in post]
        return [html.fragment_fromstring(text, create_parent="div") for text in cooked if text.strip()]
    except (ValueError, KeyError, TypeError, AttributeError, etree.LxmlError):
        return []
