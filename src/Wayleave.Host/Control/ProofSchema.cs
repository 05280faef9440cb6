namespace Wayleave.Host.Control;

/// <summary>The JSON schema of <see cref="ProofDocument"/>, which is shipped inside this assembly.</summary>
public static class ProofSchema
{
    private const string Resource = "proof.v1.schema.json";

    /// <summary>The schema's text: docs/schema/proof.v1.schema.json as it was when this was built.</summary>
    public static string Read()
    {
        using Stream stream = typeof(ProofSchema).Assembly.GetManifestResourceStream(Resource)
            ?? throw new InvalidOperationException($"this build has no {Resource}");
        using StreamReader reader = new(stream);
        return reader.ReadToEnd();
    }
}
