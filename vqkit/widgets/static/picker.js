// Shows HTML made in Python and reports what is chosen in it. Elements with data-key can be chosen,
// elements with data-sort ask for another order. No other state lives here.

const MOVES = { ArrowDown: 1, ArrowUp: -1, ArrowRight: 1, ArrowLeft: -1, PageDown: 10, PageUp: -10 };

// Change only what differs, so that focus, scrolling and hover survive a redraw.
function morph(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (old.nodeType !== Node.ELEMENT_NODE || old.nodeName !== fresh.nodeName) {
    old.replaceWith(fresh);
    return;
  }
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of [...fresh.attributes])
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  morphChildren(old, fresh);
}

function morphChildren(old, fresh) {
  const children = [...fresh.childNodes];
  if (old.childNodes.length !== children.length) old.replaceChildren(...children);
  else [...old.childNodes].forEach((child, i) => morph(child, children[i]));
}

async function render({ model, el }) {
  const out = await outbox(model);
  const to = model.get("name");
  const box = document.createElement("div");
  box.className = "vq vq-picker";
  el.append(box);
  const items = () => [...box.querySelectorAll("[data-key]")];
  const find = (key) => items().find((item) => item.dataset.key === key);

  // One stop for the tab key: the chosen part, or the first one.
  function mark() {
    const chosen = model.get("chosen");
    const stop = find(chosen) ?? items()[0];
    for (const item of items()) {
      item.tabIndex = item === stop ? 0 : -1;
      item.setAttribute("aria-selected", String(item.dataset.key === chosen));
    }
  }
  function draw() {
    const fresh = document.createElement("div");
    fresh.innerHTML = model.get("html");
    const focused = document.activeElement?.closest?.("[data-key]");
    const key = focused && box.contains(focused) ? focused.dataset.key : null;
    const chosen = model.get("chosen");
    const parts = [...fresh.querySelectorAll("[data-key]")];
    const stop = parts.find((p) => p.dataset.key === chosen) ?? parts[0];
    for (const part of parts) {
      part.setAttribute("tabindex", part === stop ? "0" : "-1");
      part.setAttribute("aria-selected", String(part.dataset.key === chosen));
    }
    morphChildren(box, fresh);
    if (key !== null) find(key)?.focus({ preventScroll: true });
    box.dataset.version = String(Number(box.dataset.version ?? 0) + 1);
  }
  function choose(item) {
    item.focus();
    item.scrollIntoView({ block: "nearest" });
    if (model.get("chosen") === item.dataset.key) return;
    model.set("chosen", item.dataset.key);
    // Walking through many, only the first and the last are sent.
    out.post({ to, kind: "choose", key: item.dataset.key }, `choose ${to}`);
    mark();
  }
  const activate = (item) => out.post({ to, kind: "activate", key: item.dataset.key, mode: model.get("mode") });

  box.addEventListener("click", (event) => {
    const sort = event.target.closest("[data-sort]");
    const item = event.target.closest("[data-key]");
    if (sort) out.post({ to, kind: "sort", key: sort.dataset.sort });
    else if (item) {
      choose(item);
      activate(item);
    }
  });
  box.addEventListener("keydown", (event) => {
    const item = event.target.closest("[data-key]");
    if (!item || event.altKey || event.ctrlKey || event.metaKey) return;
    const all = items();
    const at = all.indexOf(item);
    const last = all.length - 1;
    let next = null;
    if (event.key in MOVES) next = Math.min(last, Math.max(0, at + MOVES[event.key]));
    else if (event.key === "Home") next = 0;
    else if (event.key === "End") next = last;
    else if (event.key === "Enter" || event.key === " ") activate(item);
    else return;
    // JupyterLab would take these keys for its own.
    event.preventDefault();
    event.stopPropagation();
    if (next !== null) choose(all[next]);
  });

  function theme() {
    const dark = document.body.dataset.jpThemeLight === "false";
    if (model.get("dark") !== dark) {
      model.set("dark", dark);
      model.save_changes();
    }
  }
  const watcher = new MutationObserver(theme);
  watcher.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light"] });
  if (document.body.dataset.jpThemeLight !== undefined) theme();

  const label = () => box.setAttribute("aria-label", model.get("label"));
  box.setAttribute("role", "group");
  label();
  draw();
  model.on("change:html", draw);
  model.on("change:chosen", mark);
  model.on("change:label", label);
  return () => watcher.disconnect();
}

export default { render };
