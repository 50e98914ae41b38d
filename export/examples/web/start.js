// What a browser needs for the page, said in a sentence where it is missing. A classic script: modules do not run from
// files that are opened without a server, and browsers that lack modules run this.

(function () {
    function refuse(sentence) {
        document.getElementById("status").textContent = "";
        document.getElementById("progress").hidden = true;
        const problem = document.getElementById("problem");
        problem.textContent = sentence;
        problem.hidden = false;
    }

    async function run() {
        const { openFiles } = await import("./model/files.js");
        const files = await openFiles(document.baseURI);
        const own = files.names.filter((name) => /\.(js|css|html)$/.test(name));
        await Promise.all(own.map(files.read)); // refused here if one was changed, before any of them runs
        const page = await import("./page.js");
        await page.run(files);
    }

    if (location.protocol === "file:") {
        refuse(
            "The page was opened as a file, and browsers load its parts only from a server: " +
                "run python3 -m http.server in its folder and open http://localhost:8000.",
        );
    } else if (typeof WebAssembly === "undefined") {
        refuse(
            "This browser has no WebAssembly, or it is switched off, and the graphs need it: " +
                "take a current Firefox, Chrome, Edge or Safari, and leave its strictest security mode for this page.",
        );
    } else {
        run().catch(function (error) {
            refuse(error.name === "Refused" ? error.message : "The page failed: " + error.message + ".");
        });
    }
})();
