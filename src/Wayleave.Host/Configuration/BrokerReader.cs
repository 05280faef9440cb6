using System.Text.Json.Nodes;
using Wayleave.Host.Broker;

namespace Wayleave.Host.Configuration;

/// <summary>Reads <c>broker</c> of a configuration.</summary>
internal sealed class BrokerReader(ConfigurationReader reader)
{
    private const string Path = "broker";

    public BrokerConfig Read(JsonObject tree)
    {
        if (!tree.TryGetPropertyValue(Path, out JsonNode? node))
        {
            return new BrokerConfig();
        }

        if (node is not JsonObject broker)
        {
            reader.Report(Path, "must be an object: { \"users\": [ 1000 ] }");
            return new BrokerConfig();
        }

        BrokerLimits defaults = new();
        reader.CheckKeys(
            broker, Path, "socket", "users", "bytes_per_program_max", "quarantined_bytes_per_program_max",
            "buffers_per_program_max", "descriptors_per_program_max", "mappings_per_program_max",
            "connections_per_program_max", "keys_per_program_max", "queue_pairs_per_program_max",
            "queues_per_program_max", "jobs_per_program_max");
        return new BrokerConfig
        {
            SocketPath = reader.ReadPath(broker, Path, "socket"),
            Users = ReadUsers(broker),
            Limits = new BrokerLimits
            {
                BytesMax = (ulong?)reader.ReadSize(broker, Path, "bytes_per_program_max") ?? defaults.BytesMax,
                QuarantinedBytesMax =
                    (ulong?)reader.ReadSize(broker, Path, "quarantined_bytes_per_program_max")
                    ?? defaults.QuarantinedBytesMax,
                BuffersMax = Count("buffers") ?? defaults.BuffersMax,
                DescriptorsMax = Count("descriptors") ?? defaults.DescriptorsMax,
                MappingsMax = Count("mappings") ?? defaults.MappingsMax,
                ConnectionsMax = Count("connections") ?? defaults.ConnectionsMax,
                KeysMax = Count("keys") ?? defaults.KeysMax,
                QueuePairsMax = Count("queue_pairs") ?? defaults.QueuePairsMax,
                QueuesMax = Count("queues") ?? defaults.QueuesMax,
                JobsMax = Count("jobs") ?? defaults.JobsMax,
            },
        };

        int? Count(string what) => reader.ReadInteger(broker, Path, $"{what}_per_program_max");
    }

    private uint[] ReadUsers(JsonObject broker)
    {
        if (!broker.TryGetPropertyValue("users", out JsonNode? node))
        {
            return [];
        }

        List<uint> users = [];
        if (node is JsonArray array)
        {
            foreach (JsonNode? item in array)
            {
                if (item is JsonValue value && value.TryGetValue(out uint user))
                {
                    users.Add(user);
                }
                else
                {
                    reader.Report($"{Path}.users", $"'{item}' is not the number of a user");
                }
            }
        }
        else
        {
            reader.Report($"{Path}.users", "must be a list of numbers: [ 1000 ]");
        }

        return [.. users];
    }
}
