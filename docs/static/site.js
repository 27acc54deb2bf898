// What is wider than the page can be scrolled with the keyboard, too.
function reach() {
  for (const box of document.querySelectorAll("pre, .table-wrapper")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
}
addEventListener("load", reach);
addEventListener("resize", reach);

// A figure says how high it is.
addEventListener("message", ({ source, data }) => {
  for (const frame of document.querySelectorAll("iframe.figure"))
    if (frame.contentWindow === source && Number.isFinite(data.height))
      frame.style.height = `${Math.ceil(data.height)}px`;
});
