// Run by mongosh, any number of times: the replica set, and the collection with its images.
// A member that is named by its service is reached by all containers and, on purpose, by nobody outside.
try {
  rs.status();
} catch (error) {
  if (error.codeName !== "NotYetInitialized") throw error;
  rs.initiate({ _id: "rs0", members: [{ _id: 0, host: "mongodb:27017" }] });
}
while (!db.hello().isWritablePrimary) sleep(200);

const app = db.getSiblingDB("app");
const images = { changeStreamPreAndPostImages: { enabled: true } };
if (app.getCollectionInfos({ name: "documents" }).length === 0) app.createCollection("documents", images);
else app.runCommand({ collMod: "documents", ...images });
print("app.documents records pre- and post-images");
