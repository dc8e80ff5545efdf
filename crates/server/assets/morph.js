// Takes over into a shown element what differs in a freshly rendered one.
//
// Replacing the whole would lose what belongs to the reader: the selection, the focus, the scroll position, which details
// are open. Siblings are matched by `data-key`, or else by their tag in order. An element with `data-keep` is the
// business of a script and left alone.

/** Makes `shown` look like `fresh`. Both have the same tag. */
export function morph(shown, fresh) {
  if (shown.hasAttribute("data-keep")) return;
  attributes(shown, fresh);
  children(shown, fresh);
}

function attributes(shown, fresh) {
  for (const { name } of [...shown.attributes]) {
    if (!fresh.hasAttribute(name) && !belongsToReader(shown, name)) shown.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (shown.getAttribute(name) !== value && !belongsToReader(shown, name)) shown.setAttribute(name, value);
  }
}

function belongsToReader(element, name) {
  return name === "open" && element.tagName === "DETAILS";
}

function children(shown, fresh) {
  const spare = [...shown.childNodes];
  const keyed = new Map(spare.filter((node) => keyOf(node)).map((node) => [keyOf(node), node]));
  let place = shown.firstChild;
  for (const wanted of [...fresh.childNodes]) {
    const match = find(wanted, keyed, spare);
    let node;
    if (match) {
      spare.splice(spare.indexOf(match), 1);
      node = match;
      if (node.nodeType === Node.TEXT_NODE) {
        if (node.data !== wanted.data) node.data = wanted.data;
      } else if (node.nodeType === Node.ELEMENT_NODE) {
        morph(node, wanted);
      }
    } else {
      node = document.importNode(wanted, true);
      if (keyOf(node)) node.classList.add("fresh");
    }
    if (node === place) {
      place = place.nextSibling;
    } else {
      shown.insertBefore(node, place);
    }
  }
  for (const node of spare) node.remove();
}

function find(wanted, keyed, spare) {
  const key = keyOf(wanted);
  if (key) {
    const match = keyed.get(key);
    return match?.tagName === wanted.tagName && spare.includes(match) ? match : undefined;
  }
  return spare.find((node) => node.nodeType === wanted.nodeType && node.nodeName === wanted.nodeName && !keyOf(node));
}

function keyOf(node) {
  return node.nodeType === Node.ELEMENT_NODE ? node.getAttribute("data-key") : null;
}
