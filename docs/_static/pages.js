// A page that is opened from the file system may not fetch others: search shows titles alone there, no excerpts.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

// What is wider than its place is scrolled with the keyboard too.
function focusScrolled() {
  for (const each of document.querySelectorAll("article pre, .table-wrapper")) {
    if (each.scrollWidth > each.clientWidth) each.tabIndex = 0;
    else each.removeAttribute("tabindex");
  }
}
addEventListener("load", focusScrolled);
addEventListener("resize", focusScrolled);
addEventListener("toggle", focusScrolled, true); // a solution that opens
