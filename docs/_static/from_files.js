// A page that is opened from the file system may not fetch others: search shows titles alone there, no excerpts.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
