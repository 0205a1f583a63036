// What a model writes, as nodes: code, bold, and text as it is. Never as HTML.

export function element(name, kind = "", text = "") {
  const node = document.createElement(name);
  if (kind) node.className = kind;
  if (text) node.textContent = text;
  return node;
}

// Show a text that has grown; blocks that are whole stay the nodes that they are.
export function show(node, text) {
  const parts = text.split(/^```[^\n]*\n?/m);
  parts.forEach((part, number) => {
    const isCode = number % 2 === 1;
    let child = node.children[number];
    if (!child) {
      child = node.appendChild(element(isCode ? "pre" : "div"));
      child.shown = null;
    }
    if (child.shown === part) return;
    child.shown = part;
    if (isCode) child.textContent = part;
    else child.replaceChildren(...spans(part));
  });
}

function spans(text) {
  return text.split(/(`[^`\n]+`|\*\*[^*\n]+\*\*)/).map((part) => {
    if (/^`.+`$/.test(part)) return element("code", "", part.slice(1, -1));
    if (/^\*\*.+\*\*$/.test(part)) return element("strong", "", part.slice(2, -2));
    return document.createTextNode(part);
  });
}
