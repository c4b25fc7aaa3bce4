// The controls of one quantizer. They follow the row that is chosen in the table beside them at once, in the
// page; a message names the row, the reach and the value, so it means what was seen when it was made.

const PARAMS = ["bit_width", "method", "round_mode", "per_channel", "symmetry", "left_float"];
const REACHES = [
  (name) => name,
  (name, row) => `${row.role} quantizers of all ${row.kind} layers`,
  (name, row) => `${row.role} quantizers of the whole model`,
];
let made = 0;

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}
function labelled(words, control, ...more) {
  return element("label", { title: control.title }, control.type === "checkbox" ? control : words,
    control.type === "checkbox" ? ` ${words}` : control, ...more);
}
function choices(title, options) {
  const select = element("select", { title });
  for (const [words, value] of options) select.append(element("option", { value }, words));
  return select;
}
const tick = (title) => element("input", { type: "checkbox", title });

async function render({ model, el }) {
  const out = await outbox(model);
  const table = await model.widget_manager.get_model(model.get("table"));
  const group = `vq-reach-${(made += 1)}`;
  const scopes = model.get("scopes").map(([words, title], i) => {
    const radio = element("input", { type: "radio", name: group, value: i, title });
    radio.checked = i === 0;
    return radio;
  });
  const number = element("output");
  const by = {
    bit_width: element("input", { type: "range", min: 1, max: 32, step: 1, "aria-label": "Bits",
      title: "bits of the integer, sign included" }),
    method: choices("how range or position is chosen", model.get("methods")),
    round_mode: choices("where ties go", model.get("roundings")),
    per_channel: tick("one scale for each channel"),
    symmetry: tick("zero in the middle of the grid"),
    left_float: tick("do not quantize the layer"),
  };
  const legend = element("legend");
  const reach = element("div", { class: "vq-reach", role: "status" });
  const line = (...parts) => element("div", { class: "vq-line" }, ...parts);
  const box = element("fieldset", { class: "vq vq-controls" }, legend,
    element("div", { class: "vq-line", role: "radiogroup", "aria-label": "Change" }, "Change",
      ...scopes.map((radio, i) => labelled(model.get("scopes")[i][0], radio))),
    reach,
    line(labelled("Bits", by.bit_width), number),
    line(labelled("Method", by.method), labelled("Rounding", by.round_mode)),
    line(labelled("Per channel", by.per_channel), labelled("Symmetric", by.symmetry),
      labelled("Left float", by.left_float)));
  for (const radio of scopes) radio.parentElement.replaceChildren(radio, ` ${model.get("scopes")[radio.value][0]}`);
  el.append(box);

  let chosen = table.get("chosen");
  const row = () => model.get("rows")[chosen];
  const scope = () => Number(scopes.find((radio) => radio.checked).value);
  const value = (control) =>
    control.type === "checkbox" ? control.checked : control.type === "range" ? Number(control.value) : control.value;

  function say() {
    const here = row();
    legend.textContent = here ? `Quantizer of ${chosen}` : "Choose a row";
    reach.textContent = here ? `Changes reach: ${REACHES[scope()](chosen, here)}` : "";
    number.textContent = here?.spec ? by.bit_width.value : "–";
  }
  function draw() {
    const here = row();
    for (const name of PARAMS) {
      const control = by[name];
      control.disabled = !here || (name !== "left_float" && !here.spec) || here.fixed.includes(name);
      if (name === "left_float") control.checked = Boolean(here) && !here.spec;
      else if (here?.spec && control.type === "checkbox") control.checked = here.spec[name];
      else if (here?.spec) control.value = here.spec[name];
    }
    say();
  }
  function moved(name) {
    const now = { to: model.get("name"), kind: "set", row: chosen, scope: scope(), param: name, value: value(by[name]) };
    say();
    out.post(now, ["set", now.row, now.scope, name].join("\n"));
  }
  for (const name of PARAMS) by[name].addEventListener("input", () => moved(name));
  for (const radio of scopes) radio.addEventListener("change", () => (out.flush(), say()));
  // What the person sees is never overtaken by what the kernel knew before.
  const refresh = () => out.busy() || draw();
  model.on("change:rows", refresh);
  const restless = out.whenIdle(draw);
  function follow() {
    out.flush();
    chosen = table.get("chosen");
    draw();
  }
  table.on("change:chosen", follow);
  draw();
  return () => {
    table.off("change:chosen", follow);
    model.off("change:rows", refresh);
    restless();
  };
}

export default { render };
