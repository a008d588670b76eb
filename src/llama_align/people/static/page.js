// Keys, drafts and sending without losing what is on the page. The pages are whole without it but for the keys.
"use strict";
const $ = (query, from = document) => from.querySelector(query);
const work = $("#work"), kept = work && work.elements.turn ? `draft/${work.elements.item.value}/${work.elements.turn.value}` : null;
const fields = (form) => new URLSearchParams(new FormData(form));
let sending = false, spent = 0, since = null, timer = null;

function say(text) {
  const place = $("#said");
  if (!place) return;
  place.textContent = text;
  place.hidden = !text;
}

// -- how long the page was looked at

const seconds = work && work.elements.seconds;
function watch() {
  const now = performance.now();
  if (since !== null) spent += now - since;
  since = document.visibilityState === "visible" ? now : null;
  if (seconds) seconds.value = (spent / 1000).toFixed(1);
}
if (seconds) {
  spent = 1000 * Number(seconds.value || 0);
  watch();
  document.addEventListener("visibilitychange", watch);
}

// -- drafts: here at once, on the server a moment later

function keep() {
  watch();
  const form = fields(work);
  localStorage.setItem(kept, form);
  clearTimeout(timer);
  timer = setTimeout(() => { if (!sending) fetch("/draft", {method: "POST", body: form}).catch(() => {}); }, 400);
}
function restore() {
  for (const [name, value] of new URLSearchParams(localStorage.getItem(kept) || "")) {
    const field = work.elements[name];
    if (field && !["item", "turn"].includes(name)) field.value = value;
  }
  if (seconds) spent = Math.max(spent, 1000 * Number(seconds.value || 0));
}
if (kept && "draft" in work.dataset) {
  restore();
  work.addEventListener("input", keep);
  work.addEventListener("change", keep);
}

// -- sending: the page stays as it is until the server has kept it

async function send(form) {
  if (sending || !form.reportValidity()) return;
  sending = true;
  clearTimeout(timer);
  watch();
  document.body.classList.add("busy");
  say(form.getAttribute("action") === "/write" ? "Two answers are being drawn …" : "");
  try {
    const got = await fetch(form.getAttribute("action"), {method: "POST", body: fields(form), redirect: "manual"});
    if (got.type === "opaqueredirect") {
      if (kept && form.getAttribute("action") !== "/flag") localStorage.removeItem(kept);
      location.assign("/");
      return;
    }
    const page = new DOMParser().parseFromString(await got.text(), "text/html");
    say(($("#why", page) || page.body).textContent.trim());
  } catch {
    say("The server does not answer. What you entered is kept here; send it again in a moment.");
  }
  sending = false;
  document.body.classList.remove("busy");
}
for (const form of document.querySelectorAll("form[data-send]")) {
  form.addEventListener("submit", (event) => { event.preventDefault(); send(form); });
}

// -- what keys and buttons do

const side = () => { const at = work && work.elements.choice; return !at || !at.value ? null : at.value <= 4 ? "left" : "right"; };
function show() {
  const at = side();
  for (const name of ["left", "right"]) $(`#${name}`)?.classList.toggle("chosen", name === at);
  const edit = $("#edit");
  if (edit && work.elements.edited.value) edit.hidden = false;
}
function choose(value) {
  const input = work && $(`input[name=choice][value="${value}"]`, work);
  if (!input) return;
  input.checked = true;
  show();
  keep();
}
function flip(name) {
  const radios = work && work.elements[name];
  if (!radios) return;
  radios.value = radios.value === "1" ? "0" : "1";
  keep();
}
function improve() {
  const at = side(), edit = $("#edit");
  if (!edit) return;
  if (!at) return say("Choose an answer first, then improve it.");
  const text = $(`#${at}`).dataset.text;
  if (text === undefined) return say("An answer that calls a tool cannot be edited.");
  if (!work.elements.edited.value || work.elements.edited_of.value !== at) {
    work.elements.edited.value = text;
    work.elements.edited_of.value = at;
  }
  edit.hidden = false;
  work.elements.edited.focus();
  keep();
}
function open(name) {
  const dialog = $(`#${name}`);
  if (dialog) { dialog.showModal(); ($("textarea[required]", dialog) || $("input[type=radio]", dialog) || $("button", dialog)).focus(); }
}
function markdown(on) {
  localStorage.setItem("markdown", on ? "1" : "");
  document.body.classList.toggle("markdown", on);
  for (const one of document.querySelectorAll(".as-text")) one.hidden = on;
  for (const one of document.querySelectorAll(".as-markdown")) one.hidden = !on;
}
function guidelines(on) {
  localStorage.setItem("guidelines", on ? "" : "hidden");
  if ($("#guidelines")) $("#guidelines").hidden = !on;
}
const keys = {
  a: () => flip("safe_left"), l: () => flip("safe_right"), e: improve, s: () => open("skip"), f: () => open("flag"), "?": () => open("keys"),
  u: () => { const form = $("form[action='/undo']"); if (form && !$("button", form).disabled) form.requestSubmit(); },
  m: () => markdown(!document.body.classList.contains("markdown")), g: () => guidelines($("#guidelines")?.hidden),
  x: () => $("#end")?.requestSubmit(), y: () => verdict("1"), n: () => verdict("0"),
};
function verdict(value) {
  if (!work || !work.elements.stands) return;
  work.elements.stands.value = value;
  if (value === "0") work.elements.note.focus();
}
document.addEventListener("keydown", (event) => {
  const dialog = $("dialog[open]"), typing = event.target.matches("textarea, input:not([type=radio])");
  if (event.key === "Enter" && !event.isComposing && (event.ctrlKey || event.metaKey || !typing)) {
    const form = dialog ? $("form", dialog) : work;
    if (form && !event.target.matches("button, a, summary")) { event.preventDefault(); form.requestSubmit(); }
    return;
  }
  if (event.key === "Escape" && typing && !dialog) return event.target.blur();
  if (typing || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (dialog) {
    const reason = $(`input[name=reason][value="${event.key}"]`, dialog);
    if (reason) { event.preventDefault(); reason.checked = true; if (reason.matches("label:last-of-type input")) $("textarea", dialog).focus(); }
    return;
  }
  const act = /^[1-8]$/.test(event.key) ? () => choose(event.key) : keys[event.key];
  if (act) { event.preventDefault(); act(); }
});
document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if ("close" in button.dataset) button.closest("dialog").close();
  if ("unedit" in button.dataset) { work.elements.edited.value = work.elements.edited_of.value = ""; $("#edit").hidden = true; keep(); }
  if (button.dataset.key && button.type === "button") keys[button.dataset.key]();
});
document.addEventListener("change", () => { if (work) show(); });
markdown(localStorage.getItem("markdown") === "1");
guidelines(localStorage.getItem("guidelines") !== "hidden");
if (work) show();
