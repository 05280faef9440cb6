using System.Globalization;
using System.Text.Json;
using System.Text.Json.Serialization;

namespace Wayleave.Scenarios.Vectors;

/// <summary>A number that descriptions write as text: <c>"0x20000100"</c>.</summary>
[JsonConverter(typeof(HexNumberConverter))]
public readonly record struct HexNumber(ulong Value)
{
    internal bool IsUInt32 => Value <= uint.MaxValue;

    public override string ToString() => $"0x{Value:x}";
}

/// <summary>Reads <see cref="HexNumber"/>; takes plain numbers too.</summary>
internal sealed class HexNumberConverter : JsonConverter<HexNumber>
{
    public override HexNumber Read(ref Utf8JsonReader reader, Type typeToConvert, JsonSerializerOptions options)
    {
        if (reader.TokenType == JsonTokenType.Number && reader.TryGetUInt64(out ulong number))
        {
            return new HexNumber(number);
        }

        string? text = reader.TokenType == JsonTokenType.String ? reader.GetString() : null;
        return text?.StartsWith("0x", StringComparison.Ordinal) == true
            && ulong.TryParse(
                text.AsSpan(2), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out ulong value)
                ? new HexNumber(value)
                : throw new JsonException("a number as text, \"0x...\", is expected");
    }

    public override void Write(Utf8JsonWriter writer, HexNumber value, JsonSerializerOptions options) =>
        writer.WriteStringValue(value.ToString());
}

/// <summary>How descriptions are read.</summary>
[JsonSourceGenerationOptions(
    PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower,
    RespectNullableAnnotations = true,
    RespectRequiredConstructorParameters = true)]
[JsonSerializable(typeof(CaptureVector))]
internal sealed partial class VectorJson : JsonSerializerContext;
