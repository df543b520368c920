import MarkdownIt from "markdown-it";

// Some inputs take markdown-it a time that grows with the square of their length.
// A long chapter of a book is a quarter of this.
const MAX_LENGTH = 256 * 1024;

// Made once, when the component is built: each call begins with it as it is here. What a call
// wants of its own reaches the rules below as their last argument but one.
const markdown = new MarkdownIt({ html: false, linkify: true });

// `readme.md` is a file more often than a place in Moldova.
markdown.linkify.set({ fuzzyLink: false, fuzzyEmail: false });

// What looks for addresses is put together when it is first asked. This way that is now.
markdown.linkify.test("https://example.com");

// markdown-it has a list of schemes that are refused. New ones are thought of every year, so this
// is one of those that are not. `url` has its entities and escapes resolved.
markdown.validateLink = (url) => {
  const beforePath = /^[^/?#]*/.exec(url)[0];
  return !beforePath.includes(":") || /^(https?|mailto):/i.test(url);
};

const { rules } = markdown.renderer;

rules.softbreak = (tokens, index, options, style) => (style.breaks ? "<br>\n" : "\n");

rules.link_open = (tokens, index, options, style, renderer) => {
  if (style.nofollow) tokens[index].attrSet("rel", "nofollow ugc");
  return renderer.renderToken(tokens, index, options);
};

const image = rules.image;

rules.image = (tokens, index, options, style, renderer) => {
  if (!style.noImages) return image(tokens, index, options, style, renderer);
  const { escapeHtml } = markdown.utils;
  const token = tokens[index];
  const url = token.attrGet("src");
  const name = renderer.renderInlineAsText(token.children, options, style) || url;
  const rel = style.nofollow ? ' rel="nofollow ugc"' : "";
  return `<a href="${escapeHtml(url)}"${rel}>${escapeHtml(name)}</a>`;
};

export const api = {
  render(text, style) {
    if (text.length > MAX_LENGTH) throw { tag: "too-long", val: MAX_LENGTH };
    return markdown.render(text, style ?? {});
  },
};
