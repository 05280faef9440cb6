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
            broker, Path, "socket", "users", "bytes_per_program_max", "buffers_per_program_max",
            "descriptors_per_program_max", "mappings_per_program_max", "connections_per_program_max");
        return new BrokerConfig
        {
            SocketPath = reader.ReadPath(broker, Path, "socket"),
            Users = ReadUsers(broker),
            Limits = new BrokerLimits
            {
                BytesMax = (ulong?)reader.ReadSize(broker, Path, "bytes_per_program_max") ?? defaults.BytesMax,
                BuffersMax = reader.ReadInteger(broker, Path, "buffers_per_program_max") ?? defaults.BuffersMax,
                DescriptorsMax =
                    reader.ReadInteger(broker, Path, "descriptors_per_program_max") ?? defaults.DescriptorsMax,
                MappingsMax = reader.ReadInteger(broker, Path, "mappings_per_program_max") ?? defaults.MappingsMax,
                ConnectionsMax =
                    reader.ReadInteger(broker, Path, "connections_per_program_max") ?? defaults.ConnectionsMax,
            },
        };
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
