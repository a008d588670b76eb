"""Posts of a forum, found by the marks of the software that wrote the page. Knows lxml trees; nothing of extraction.

An extractor built for articles takes the longest post for the page, or the list of threads beside it.
"""

import json

from lxml import etree, html
from lxml.html import HtmlElement

# XenForo; vBulletin; phpBB; MyBB; SMF; Invision; Discourse as crawlers see it; NodeBB; Flarum; Stack Exchange; Reddit
POSTS = (
    "article[contains(concat(' ', @class, ' '), ' message-body ')]//div[contains(@class, 'bbWrapper')]",
    "div[starts-with(@id, 'post_message_')]",
    "div[contains(concat(' ', @class, ' '), ' postbody ')]//div[contains(concat(' ', @class, ' '), ' content ')]",
    "div[contains(concat(' ', @class, ' '), ' post_body ')]",
    "div[@class='post']/div[@class='inner']",
    "div[@data-role='commentContent']",
    "div[contains(concat(' ', @class, ' '), ' crawler-post ')]//div[@itemprop='text' or @class='post']",
    "div[@class='post' and @itemprop='text']",
    "div[@component='post/content']",
    "div[contains(concat(' ', @class, ' '), ' Post-body ')]",
    "div[contains(@class, 'js-post-body')] | .//span[contains(@class, 'comment-copy')]",
    "div[contains(concat(' ', @class, ' '), ' usertext-body ')]",
)
LEAST_POSTS = 2
# in the source of a page that may have such posts
MARKS = (
    "data-preloaded", "bbWrapper", "post_message_", "postbody", "post_body", 'class="inner', "class='inner",
    "commentContent", "crawler-post", 'itemprop="text', "itemprop='text", "post/content", "Post-body", "js-post-body",
    "usertext-body",
)  # fmt: skip


def posts_of(tree: HtmlElement) -> HtmlElement | None:
    """A page of nothing but the posts, in order, under the thread's title; None where the page is no known forum."""
    posts = _preloaded(tree)
    if not posts:
        for path in POSTS:
            posts = [post for post in tree.xpath(f".//{path}") if post.text_content().strip()]
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
