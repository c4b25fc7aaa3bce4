// What a person does, on its way to the kernel. All parts of a widget share one outbox: what is done first is
// numbered first, and the kernel acts in that order. One message is under way; the newest waits for the answer
// and replaces what waited if it is about the same. Whatever is done elsewhere first sends what waits.
// JupyterLab would take arrow keys and letters for its own, even from a list that is open.
function keepKeys(event) {
  const { key } = event;
  if (event.altKey || event.ctrlKey || event.metaKey || key === "Tab" || key === "Escape") return;
  if (!(event.shiftKey && key === "Enter")) event.stopPropagation();
}
if (!globalThis.vqKeys) {
  globalThis.vqKeys = new WeakSet();
  const entered = ({ target }) => {
    const widget = target.closest?.(".vq-widget");
    if (!widget || globalThis.vqKeys.has(widget)) return;
    globalThis.vqKeys.add(widget);
    widget.addEventListener("keydown", keepKeys);
  };
  document.addEventListener("focusin", entered, true);
}

async function outbox(model) {
  const hub = await model.widget_manager.get_model(model.get("queue"));
  hub.vqOutbox ??= opened(hub);
  return hub.vqOutbox;
}

function opened(hub) {
  const view = Math.random().toString(36).slice(2);
  const waiters = new Set();
  let sent = 0;
  let answered = 0;
  let held = null;
  function send(content) {
    sent += 1;
    hub.send({ ...content, seq: sent, view });
  }
  function flush() {
    const content = held;
    held = null;
    if (content !== null) send(content);
  }
  hub.on("msg:custom", (content) => {
    if (content.view !== view) return;
    answered = Math.max(answered, content.answer);
    if (answered !== sent) return;
    if (held !== null) flush();
    else for (const idle of waiters) idle();
  });
  document.addEventListener("pointerdown", flush, true);
  document.addEventListener("focusout", flush, true);
  return {
    // `about` names what a message replaces; "" replaces nothing and is sent at once.
    post(content, about = "") {
      if (held !== null && held.about !== about) flush();
      if (about === "" || answered === sent) send({ ...content, about });
      else held = { ...content, about };
    },
    flush,
    busy: () => answered !== sent || held !== null,
    // Calls `idle` whenever everything is answered; returns how to end that.
    whenIdle(idle) {
      waiters.add(idle);
      return () => waiters.delete(idle);
    },
  };
}
