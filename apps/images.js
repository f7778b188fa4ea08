// Four things Gradio leaves out for a conversation and its pictures.
(names) => {
  // Alternative text: the number of the picture in the whole conversation, as the stylesheet shows it to the eye.
  const describe = () => {
    const name = names[window.ultrasoundLanguage || "en"];
    document.querySelectorAll(".conversation").forEach((conversation) => {
      conversation.querySelectorAll(".user-row img").forEach((image, place) => {
        const alternative = name.replace("{number}", place + 1);
        if (image.alt !== alternative) image.alt = alternative;
      });
    });
  };
  new MutationObserver(describe).observe(document.body, { childList: true, subtree: true, characterData: true });

  // Files dropped or pasted beside the box go into it; the browser would leave the page to show them.
  const attach = (event, files) => {
    if (event.target.closest?.(".ask") || !files?.length) return;
    event.preventDefault();
    const box = [...document.querySelectorAll(".ask")].find((ask) => ask.offsetParent !== null);
    const input = box?.querySelector("input[type=file]");
    if (!input) return;
    input.files = files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  };
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => attach(event, event.dataTransfer?.files));
  document.addEventListener("paste", (event) => attach(event, event.clipboardData?.files));

  // Enter waits, with the words in the box, while an answer is being written: Gradio would send them into the middle of
  // it, and the answer would be lost. Stop comes first.
  const sendsTooEarly = (event) => event.key === "Enter" && !event.shiftKey && event.target.closest?.(".ask")?.querySelector(".stop-button");
  document.addEventListener("keypress", (event) => {
    if (!sendsTooEarly(event)) return;
    event.preventDefault();
    event.stopImmediatePropagation();
  }, true);

  // A click on a frame of a step goes to the page's hidden field, with the time, so that it can be clicked again.
  // Not while an answer is being written, either.
  document.addEventListener("click", (event) => {
    const frame = event.target.closest(".conversation .frames button.frame");
    const field = document.querySelector("#chat-pick textarea, #chat-pick input");
    if (!frame || !field || document.querySelector("#chat-box .stop-button")) return;
    field.value = `${frame.value} ${Date.now()}`;
    field.dispatchEvent(new Event("input", { bubbles: true }));
  });
}
