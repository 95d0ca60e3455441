// The AWS SDK for JavaScript as its users call it; it compares the digests of all that it receives by itself.
"use strict";

const sqs = require("@aws-sdk/client-sqs");

const { endpoint, key, secret } = JSON.parse(process.argv[2]);
const client = new sqs.SQSClient({
  endpoint,
  region: "eu-west-1",
  credentials: { accessKeyId: key, secretAccessKey: secret },
  maxAttempts: 1,
});
const call = (name, input) => client.send(new sqs[`${name}Command`](input));

const attributes = {
  text: { DataType: "String", StringValue: "ä€😀" },
  number: { DataType: "Number.int", StringValue: "42" },
  bytes: { DataType: "Binary", BinaryValue: new Uint8Array([0, 1, 255]) },
};

async function main() {
  const seen = {};
  const { QueueUrl } = await call("CreateQueue", { QueueName: "from-js", Attributes: { VisibilityTimeout: "5" } });
  seen.url = QueueUrl;
  await call("SendMessage", { QueueUrl, MessageBody: "héllo\r\n😀", MessageAttributes: attributes });
  const batch = await call("SendMessageBatch", {
    QueueUrl,
    Entries: [
      { Id: "good", MessageBody: "two", MessageAttributes: { text: attributes.text } },
      { Id: "late", MessageBody: "three", DelaySeconds: 901 },
    ],
  });
  seen.batch = [batch.Successful.map((one) => one.Id), batch.Failed.map((one) => one.Id)];
  const received = await call("ReceiveMessage", {
    QueueUrl,
    MaxNumberOfMessages: 10,
    WaitTimeSeconds: 5,
    MessageAttributeNames: ["All"],
    MessageSystemAttributeNames: ["All"],
  });
  seen.bodies = received.Messages.map((one) => one.Body);
  seen.count = received.Messages[0].Attributes.ApproximateReceiveCount;
  seen.bytes = [...received.Messages[0].MessageAttributes.bytes.BinaryValue];
  const [first, second] = received.Messages.map((one) => one.ReceiptHandle);
  await call("ChangeMessageVisibility", { QueueUrl, ReceiptHandle: first, VisibilityTimeout: 0 });
  const again = await call("ReceiveMessage", { QueueUrl, WaitTimeSeconds: 5, MessageAttributeNames: ["t.*"] });
  seen.again = [again.Messages[0].Body, Object.keys(again.Messages[0].MessageAttributes)];
  await call("DeleteMessageBatch", {
    QueueUrl,
    Entries: [
      { Id: "a", ReceiptHandle: first },
      { Id: "b", ReceiptHandle: second },
    ],
  });
  const shown = await call("GetQueueAttributes", { QueueUrl, AttributeNames: ["ApproximateNumberOfMessages"] });
  seen.left = shown.Attributes.ApproximateNumberOfMessages;
  try {
    await call("SendMessage", { QueueUrl: QueueUrl + "-none", MessageBody: "x" });
  } catch (error) {
    seen.error = [error.name, error instanceof sqs.QueueDoesNotExist, error.$metadata.httpStatusCode, error.Code];
  }
  try {
    await call("DeleteMessage", { QueueUrl, ReceiptHandle: "nonsense" });
  } catch (error) {
    seen.receipt = [error.name, error.message];
  }
  const pages = [];
  for await (const page of sqs.paginateListQueues({ client, pageSize: 1 }, {})) pages.push(...(page.QueueUrls ?? []));
  seen.listed = pages.length;
  await call("DeleteQueue", { QueueUrl });
  process.stdout.write(JSON.stringify(seen) + "\n");
}

main().catch((error) => {
  process.stderr.write(`${error.stack}\n`);
  process.exit(1);
});
