using System.Reflection;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.Json.Serialization.Metadata;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Retirement;
using Wayleave.Host.Control;
using Xunit;

namespace Wayleave.Linux.Tests.Control;

/// <summary>
/// The form of a proof: the schema says what the document has, and the document what Core's value has.
/// </summary>
public class ProofSchemaTests
{
    private static JsonElement Schema => JsonDocument.Parse(ProofSchema.Read()).RootElement;

    public static TheoryData<string, string> Parts => new()
    {
        { nameof(ProofDocument), "#" },
        { nameof(ImporterProofDocument), "#/$defs/importer" },
        { nameof(FenceProofDocument), "#/$defs/fence" },
    };

    [Theory]
    [MemberData(nameof(Parts))]
    public void The_schema_has_exactly_the_members_of_the_document(string document, string reference)
    {
        JsonTypeInfo type = ControlJson.Default.GetTypeInfo(
            typeof(ProofDocument).Assembly.GetType($"Wayleave.Host.Control.{document}")!)!;
        JsonElement part = JsonSchema.Resolve(Schema, reference);
        Assert.Equal(
            type.Properties.Select(p => p.Name).Order(StringComparer.Ordinal),
            part.GetProperty("properties").EnumerateObject().Select(p => p.Name).Order(StringComparer.Ordinal));

        // A reader fills the first two in where they lack, and finds the version out by that.
        string[] always = ["schema", "version"];
        Assert.Equal(
            type.Properties.Where(p => p.IsRequired || always.Contains(p.Name)).Select(p => p.Name).Order(),
            part.GetProperty("required").EnumerateArray().Select(r => r.GetString()!).Order());
    }

    [Fact]
    public void The_words_of_the_schema_are_those_of_the_enumerations()
    {
        Assert.Equal(Enum.GetNames<RetirementGrade>(), WordsAt("#/$defs/grade"));
        Assert.Equal(ToWords<QuarantineCause>(), WordsAt("#/properties/cause"));
        Assert.Equal(ToWords<ImporterKind>(), WordsAt("#/$defs/importer/properties/kind"));
        Assert.Equal(ToWords<DrainState>(), WordsAt("#/$defs/importer/properties/drain"));
        Assert.Equal(ToWords<StopCause>(), WordsAt("#/$defs/importer/properties/stopped_by"));
    }

    [Fact]
    public void No_part_of_a_proof_is_lost_on_the_way_through_a_document()
    {
        RetirementProof full = FullProof();
        AssertNothingIsDefault(full);
        AssertNothingIsDefault(full.Importers[0]);
        AssertNothingIsDefault(full.Fences[0]);
        RetirementProof read = ProofDocument.Parse(Serialize(full), "test").ToProof();
        Assert.Equal(full.Importers, read.Importers);
        Assert.Equal(full.Fences, read.Fences);
        Assert.Equal(full, read with { Importers = full.Importers, Fences = full.Fences });
    }

    [Fact]
    public void A_full_proof_is_what_the_schema_says() =>
        Assert.Empty(JsonSchema.FindProblems(Schema, JsonDocument.Parse(Serialize(FullProof())).RootElement));

    [Theory]
    [InlineData("grade", "\"Perhaps\"", "$.grade: is none of these")]
    [InlineData("version", "2", "$.version: is not 1")]
    [InlineData("size_bytes", "-1", "$.size_bytes: is too small")]
    [InlineData("started_at_us", "\"now\"", "$.started_at_us: is no number")]
    [InlineData("more", "1", "$: has more")]
    [InlineData("importers", null, "$: lacks importers")]
    [InlineData("fences", "[{\"fence\":\"f\",\"ended\":true}]", "$.fences[0]: lacks forced")]
    public void What_is_against_the_schema_is_found_and_refused_by_the_reader(
        string member, string? value, string problem)
    {
        JsonObject proof = JsonNode.Parse(Serialize(FullProof()))!.AsObject();
        if (value is null)
        {
            proof.Remove(member);
        }
        else
        {
            proof[member] = JsonNode.Parse(value);
        }

        JsonElement text = JsonDocument.Parse(proof.ToJsonString()).RootElement;
        Assert.Contains(problem, JsonSchema.FindProblems(Schema, text));
        if (member is not "size_bytes")
        {
            Assert.Throws<Host.WayleaveException>(() => ProofDocument.Parse(
                Encoding.UTF8.GetBytes(proof.ToJsonString()), "test"));
        }
    }

    internal static RetirementProof FullProof() => new()
    {
        Version = RetirementProof.SchemaVersion,
        BufferId = 7,
        Buffer = "model.bin",
        Exporter = "gpu0",
        SizeBytes = 1 << 20,
        Reason = "wanted back",
        Grade = RetirementGrade.KeyDead,
        RequiredGrade = RetirementGrade.Retired,
        Cause = QuarantineCause.FenceForced,
        StartedAt = At(100),
        Deadline = At(200),
        InvalidatedAt = At(103),
        FencesSignaledAt = At(120),
        CompletedAt = At(150),
        Importers =
        [
            new ImporterProof
            {
                Importer = "rdma0 mr 0x00000100",
                Device = "rdma0",
                Holder = "127.0.0.3",
                Kind = ImporterKind.PinnedRevocable,
                Grade = RetirementGrade.KeyDead,
                WasMapped = true,
                AcknowledgedAt = At(103),
                Key = 0x100,
                KeyDeadAt = At(101),
                GateClosedAt = At(102),
                InsideAtClose = 1,
                DrainedAt = At(104),
                UnmappedAt = At(105),
                DrainFence = "rdma0 mr 0x00000100:3:1",
                Drain = DrainState.Forced,
                StoppedBy = StopCause.DeviceRemoved,
                StoppedAt = At(110),
                Witness = "the bus",
            },
        ],
        Fences = [new FenceProof("engine:3:1", At(120), IsForced: true, HasEnded: true) { Error = Errno.ECANCELED }],
    };

    private static byte[] Serialize(RetirementProof proof) =>
        JsonSerializer.SerializeToUtf8Bytes(ProofDocument.From(proof), ControlJson.Default.ProofDocument);

    private static TimeSpan At(int microseconds) => TimeSpan.FromMicroseconds(microseconds);

    private static string[] WordsAt(string reference) =>
        [.. JsonSchema.Resolve(Schema, reference).GetProperty("enum").EnumerateArray().Select(e => e.GetString()!)];

    private static IEnumerable<string> ToWords<T>()
        where T : struct, Enum => Enum.GetNames<T>().Select(JsonNamingPolicy.SnakeCaseLower.ConvertName);

    // A field that Core gains and nobody sets here is a field that nobody looked for in the document.
    private static void AssertNothingIsDefault(object value)
    {
        foreach (PropertyInfo property in value.GetType().GetProperties().Where(p => p.CanWrite))
        {
            object? set = property.GetValue(value);
            object? unset = property.PropertyType.IsValueType ? Activator.CreateInstance(property.PropertyType) : null;
            Assert.False(Equals(set, unset), $"{value.GetType().Name}.{property.Name} is not set");
        }
    }
}
