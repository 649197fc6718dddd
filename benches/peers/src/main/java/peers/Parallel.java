package peers;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.confluent.parallelconsumer.ParallelConsumerOptions;
import io.confluent.parallelconsumer.ParallelConsumerOptions.ProcessingOrder;
import io.confluent.parallelconsumer.ParallelStreamProcessor;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/** One call for each record by Confluent's Parallel Consumer: arguments are brokers, input, destination, group. */
public final class Parallel {
    private static final ObjectMapper JSON = new ObjectMapper();

    public static void main(String[] args) throws Exception {
        Properties config = new Properties();
        config.put("bootstrap.servers", args[0]);
        config.put("group.id", args[3]);
        config.put("enable.auto.commit", "false");
        config.put("auto.offset.reset", "earliest");
        HttpClient http = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
        var consumer = new KafkaConsumer<>(config, new ByteArrayDeserializer(), new ByteArrayDeserializer());
        var options = ParallelConsumerOptions.<byte[], byte[]>builder()
                .ordering(ProcessingOrder.KEY)
                .maxConcurrency(1000)
                .consumer(consumer)
                .build();
        ParallelStreamProcessor<byte[], byte[]> processor =
                ParallelStreamProcessor.createEosStreamProcessor(options);
        processor.subscribe(List.of(args[1]));
        processor.poll(context -> {
            try {
                JsonNode value = JSON.readTree(context.getSingleConsumerRecord().value());
                String customer = value.get("data").get("object").get("customer").asText();
                URI uri = URI.create(args[2] + "/take/" + customer + "/" + value.get("seq").asText());
                HttpRequest call = HttpRequest.newBuilder(uri).POST(HttpRequest.BodyPublishers.noBody()).build();
                int status = http.send(call, HttpResponse.BodyHandlers.discarding()).statusCode();
                if (status != 200) {
                    throw new IllegalStateException("answered " + status);
                }
            } catch (Exception error) {
                throw new IllegalStateException(error);
            }
        });
        CountDownLatch ended = new CountDownLatch(1);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            processor.close();
            ended.countDown();
        }));
        ended.await();
    }
}
