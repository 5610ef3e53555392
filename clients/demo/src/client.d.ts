// The page loads the client's bundle from its own address. Its types are those of the package.
export * from "../../typescript/dist/index.js";
