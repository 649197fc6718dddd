package peers;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.util.Locale;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Produced;

/** Filter and map by Kafka Streams: arguments are brokers, input, output, group, guarantee. */
public final class Streams {
    private static final ObjectMapper JSON = new ObjectMapper();

    public static void main(String[] args) throws Exception {
        Properties config = new Properties();
        config.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, args[0]);
        config.put(StreamsConfig.APPLICATION_ID_CONFIG, args[3]);
        config.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, args[4]);
        config.put(StreamsConfig.consumerPrefix("auto.offset.reset"), "earliest");
        // Its default of 30 s at least once would only lengthen the wait for the last offset.
        config.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 100);
        StreamsBuilder builder = new StreamsBuilder();
        builder.stream(args[1], Consumed.with(Serdes.ByteArray(), Serdes.ByteArray()))
                .mapValues(Streams::enriched)
                .filter((key, value) -> value != null)
                .map((key, value) -> new org.apache.kafka.streams.KeyValue<>(
                        value.get("customer").asText(), written(value)))
                .to(args[2], Produced.with(Serdes.String(), Serdes.ByteArray()));
        KafkaStreams streams = new KafkaStreams(builder.build(), config);
        CountDownLatch ended = new CountDownLatch(1);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            streams.close();
            ended.countDown();
        }));
        streams.start();
        ended.await();
    }

    private static ObjectNode enriched(byte[] text) {
        try {
            ObjectNode value = (ObjectNode) JSON.readTree(text);
            if (!value.get("livemode").asBoolean()) {
                return null;
            }
            var object = value.get("data").get("object");
            value.set("customer", object.get("customer"));
            value.put("currency", object.get("currency").asText().toUpperCase(Locale.ROOT));
            return value;
        } catch (IOException error) {
            throw new IllegalArgumentException(error);
        }
    }

    private static byte[] written(ObjectNode value) {
        try {
            return JSON.writeValueAsBytes(value);
        } catch (IOException error) {
            throw new IllegalArgumentException(error);
        }
    }
}
