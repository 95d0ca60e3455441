for (const snippet of document.querySelectorAll(".snippet")) {
  const code = snippet.querySelector("code");
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy";
  button.setAttribute("aria-label", "Copy: " + snippet.querySelector("pre").getAttribute("aria-label"));
  const status = document.getElementById("status");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(code.textContent);
      status.textContent = "Copied";
    } catch {
      // Without TLS browsers give no clipboard to a page: select it, for the reader to copy.
      getSelection().selectAllChildren(code);
      status.textContent = "Selected";
    }
    button.textContent = status.textContent;
    setTimeout(() => { button.textContent = "Copy"; status.textContent = ""; }, 2000);
  });
  snippet.prepend(button);
}
