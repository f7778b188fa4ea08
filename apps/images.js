// Gradio shows the pictures of a conversation without alternative text. Number them, in the page's language, as the
// stylesheet does for the eye: by their place in the whole conversation.
(names) => {
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
}
