// Change the whole page's language in place. Gradio knows zh-CN and zh-TW but not zh, zh-HK or zh-Hans, so the choice is
// ours: ?lang= in the address, else what was chosen before, else the browser's language.
// Gradio keeps its translator in an asset called core-….js; a browser test watches that this still works. It does not
// translate the heads of tabs that were not opened yet: their names in all languages are `tabs`.
async (mode, tabs) => {
  const short = (name) => ((name || "").toLowerCase().startsWith("zh") ? "zh" : "en");
  const store = (value) => {
    try {
      if (value) localStorage.setItem("ultrasound_language", value);
      return localStorage.getItem("ultrasound_language");
    } catch (blocked) {
      return value;
    }
  };
  const asked = new URLSearchParams(location.search).get("lang");
  let language = short(asked || store() || navigator.language);
  if (mode === "toggle") {
    language = window.ultrasoundLanguage === "zh" ? "en" : "zh";
    store(language);
  }
  window.ultrasoundLanguage = language;
  const assets = performance.getEntriesByType("resource").map((entry) => entry.name);
  const core = assets.find((name) => /\/assets\/core-[^/]+\.js/.test(name));
  if (core) (await import(core)).changeLocale(language === "zh" ? "zh-CN" : "en");
  await new Promise((ready) => setTimeout(ready)); // what Gradio translates is there now
  const walker = document.createTreeWalker(document.querySelector("#tabs"), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    const names = node.parentElement.role === "tab" && tabs.find((each) => Object.values(each).includes(node.data.trim()));
    if (names) node.data = names[language];
  }
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  return language;
}
