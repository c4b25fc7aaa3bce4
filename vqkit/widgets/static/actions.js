// A row of buttons, and a field whose text goes with what is pressed.

async function render({ model, el }) {
  const out = await outbox(model);
  const box = document.createElement("div");
  box.className = "vq vq-actions";
  el.append(box);
  let field = null;
  if (model.get("field")) {
    const label = document.createElement("label");
    field = document.createElement("input");
    field.type = "text";
    field.title = model.get("field_tip");
    field.value = model.get("value");
    label.append(`${model.get("field")} `, field);
    box.append(label);
  }
  const buttons = model.get("buttons").map(({ key, words, icon, tip }) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "jupyter-widgets jupyter-button widget-button";
    button.title = tip;
    button.dataset.action = key;
    if (icon) {
      const picture = document.createElement("i");
      picture.className = `fa fa-${icon}`;
      picture.setAttribute("aria-hidden", "true");
      button.append(picture, " ");
    }
    button.append(words);
    button.addEventListener("click", () =>
      out.post({ to: model.get("name"), kind: "press", key, value: field === null ? "" : field.value }));
    box.append(button);
    return button;
  });
  const able = () => {
    const off = model.get("disabled");
    for (const button of buttons) button.disabled = off.includes(button.dataset.action);
  };
  able();
  model.on("change:disabled", able);
  if (field !== null) model.on("change:value", () => (field.value = model.get("value")));
}

export default { render };
